"""What the documentation site has beside the pages of docs/: reference pages made from the code. See mkdocs.yml."""
