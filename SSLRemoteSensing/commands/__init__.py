"""The commands: what each is asked with its flags, and its story; `sslrs` calls them by name."""
