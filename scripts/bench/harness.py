"""Runs lm-evaluation-harness on the same model and texts, in its own environment.

    python harness.py FOLDER     FOLDER has the model, its tokenizer and requests.json; then, for each line of standard
                                 input, scores all requests and answers with the seconds it took

It is started by `scripts/bench` and imports nothing of this project.
"""

import contextlib
import json
import sys
import time


def main(folder: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        with open(f"{folder}/config.json", encoding="utf-8") as file:
            backend = "seq2seq" if json.load(file).get("is_encoder_decoder") else "causal"
        model = HFLM(pretrained=folder, backend=backend, batch_size=16, max_length=2048, device="cpu", dtype="float32")
    print("ready", flush=True)
    for line in sys.stdin:
        with open(f"{folder}/{line.strip()}", encoding="utf-8") as file:
            pairs = [tuple(pair) for pair in json.load(file)]
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=idx) for idx, pair in enumerate(pairs)
        ]
        with contextlib.redirect_stdout(sys.stderr):
            started = time.perf_counter()
            answers = model.loglikelihood(requests, disable_tqdm=True)
            seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "scores": [answer[0] for answer in answers]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
