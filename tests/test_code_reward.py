"""The code reward: tests of every form, what is compared, and the way through a worker and a sandbox."""
