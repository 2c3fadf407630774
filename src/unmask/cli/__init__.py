"""The command line: unmask train | evaluate | sample | infill | plot, one file each; the only code that knows YAML."""
