"""What a recipe will take, before anything is loaded: steps, tokens, memory, disk and time, by formula."""
