"""Every fixed bound and tolerance that a user can meet. README, "Limits", says what happens beyond each of them.

What can be set is not here but in configs/ (of the service, in serve.yaml). Nor is how much is listed on a screen.
"""

from datetime import timedelta

# templates that are not promptsource's own (tfew/data/sandbox.py, rendering.py)
TEMPLATE_SOURCE_CHARACTERS = 100_000
TEMPLATE_OUTPUT_CHARACTERS = 1_000_000  # of one render: some 200,000 words
TEMPLATE_SECONDS = 5.0  # for one render
TEMPLATE_START_SECONDS = 60.0  # for the process that renders to start, on a machine that is busy
TEMPLATE_MEMORY_BYTES = 512 * 2**20  # of that process

# files
LINE_BYTES = 2**24  # of rows to label: more is no line but a file of another kind
NAME_BYTES = 255  # of a file or folder: file systems have no longer ones
CELL_CHARACTERS = 10_000_000  # of a table
WHOLE_NUMBER = 2**63 - 1  # in files of the project's own: larger ones are no counts, and overflow elsewhere
COMPARED_TEMPLATES = 35  # of a run in a comparison, which writes the number that were right as one of 0-9a-z

# what is taken for what
LABEL_CHARACTERS = 60  # of values in a column that is guessed to be the label's
FEW_ROWS = 5  # of a label, below which its numbers are said to mean little
CALIBRATION_ROWS = 30  # with fewer, a temperature says more about these rows than about the model
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0  # that are tried
# the most that a right mask's difference from the plain way may be of a wrong mask's, for engine=fast to be used on a
# decoder-only model: in float32, and in less
ENGINE_AGREEMENT, ENGINE_AGREEMENT_16_BIT = 1e-3, 0.1
ADVISED_MEMORY = 0.8  # of what is free: allocators round, and kernels take something for themselves

# waiting
HUB_SECONDS = 3.0  # for the Hub to answer, before only cached copies are used
PROCESS_WAIT = timedelta(minutes=30)  # of one process of a run for another: the first may write, or load, alone
SWEEP_DEATHS = 3  # of a job's process; with joblib a job dies with its neighbour, so one death says little
LAST_WORDS_SECONDS = 1.0  # that a stopping service answers 503 behind its last answer, rather than cut off
CUT_OFF_SECONDS = 5  # then, for who has not sent a whole request or does not take its answer

# how far numbers may be from those they are held against
FIDELITY = 1e-4  # from a step of the official code's recorded training (scripts/check_fidelity.py)
SERVICE = 1e-5  # from tfew.predict, of the service under load (scripts/bench/service.py)
