"""Many rows, labelled in pieces by several workers: processes of this machine, or Ray's actors on many.

* input_files: what `input=` names: a file, a folder, a pattern, an object store
* piece: consecutive rows of a file, cut where the windows of a single process end
* labeller: what a worker does with a piece
* part_rows, part_store, manifest: the parts of the output, where they are stored, and which are done
* workers, local_workers, ray_workers, worker_choice: the workers
* labelling_job: hands the pieces out until all are done
* piece_output, joined_output: parts to `output=`: a folder of them, or one file
"""
