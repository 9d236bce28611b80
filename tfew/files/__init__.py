"""Reading and writing files safely.

* atomic, atomic_output, partial_file: written whole or not at all; large ones resume
* file_lock: one process per file
* checksums: whether a file is as it was written
* regular: files that end, under a size
* untrusted: JSON, YAML and archives of strangers
* hub: whether the Hugging Face Hub answers, and patience with it
* hub_files: commits and files of the Hub, in its cache
* hub_adapter: adapters that are on the Hub
* hub_xet: Xet storage, and HTTP where it cannot be loaded
* hub_errors: why something could not be had, in words
"""
