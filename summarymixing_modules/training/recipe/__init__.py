"""From the command line and a YAML file to checked settings and objects."""
