"""The environment of a run.

* versions: versions of this package and its dependencies; checks for unsupported and missing ones
* package_files: data files of other packages
* config_folder: the folder of configurations
* cores: processor cores that this process may use
* command_line: --help, renamed and unknown settings, before anything heavy is imported
* help_text: the output of --help
* verbosity: quiet mode for use from programs, and messages on stderr
"""
