"""Safe reading and writing of files.

* atomic, atomic_output, partial_file: atomic writes; large outputs can be resumed
* file_lock: one process per file
* checksums: detection of damaged files
* regular: opens regular files only, up to a size
* untrusted: parsers for JSON, YAML and archives from untrusted sources
* hub: whether the Hugging Face Hub answers; retries
* hub_files: commits and files of the Hub, in its cache
* hub_adapter: adapters on the Hub
* hub_xet: Xet storage, with fallback to HTTP
* hub_errors: error messages for failed downloads
"""
