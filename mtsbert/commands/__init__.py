"""One file for each command of `mtsbert`; each has a `main(argv, prog=...)`. May import everything."""
