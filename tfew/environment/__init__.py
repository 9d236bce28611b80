"""What is installed around a run.

* versions: this package's own version, and its dependencies': those that cannot work, and those that are missing
* package_files: data that other packages bring
* config_folder: where configurations lie
* cores: processor cores that this process may use
* command_line: --help, renamed settings and unknown ones, before anything heavy is imported
* help_text: what --help prints
* verbosity: how much a program wants to see
"""
