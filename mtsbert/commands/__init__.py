"""One file per `mtsbert` command, each with a `main(argv, prog=...)`. May import everything."""
