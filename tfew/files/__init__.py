"""Reading and writing files safely.

atomic, atomic_output  files and folders that are written atomically
partial_file           large output files whose writing resumes
checksums              detecting damaged files
untrusted              JSON, YAML and archives of unknown origin
hub                    whether the Hugging Face Hub can be reached
"""
