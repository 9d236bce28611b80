"""How a choice is scored: the prompts that the model scores for a prompt, and the prediction made from theirs.

    direct       log p(choice | input)
    channel      log p(input | choice): the choice becomes the input, and the input is scored (Min et al. 2022,
                 arXiv 2108.04106); shots are reversed in the same way
    calibrated   log p(choice | input) - log p(choice | the content-free prompt), after Zhao et al. 2021 (arXiv
                 2102.09690); the official code has a mode of this name that subtracts nothing

Norms apply to each of these; a channel's norm counts the tokens, characters and bytes of the input.
"""

from collections.abc import Sequence
from dataclasses import replace

from tfew.ranking.norms import predicted
from tfew.ranking.ties import best_of
from tfew.schema import Prediction, Prompt

METHODS = ("direct", "channel", "calibrated")


def prompts_to_score(prompt: Prompt, method: str) -> list[Prompt]:
    """The prompts to score for `prediction_from`."""
    query = replace(prompt, content_free=None)
    if method == "channel":
        turned = shots_to_score(prompt.shots, method)
        return [
            replace(
                query,
                input=choice,
                cuttable=(),
                choices=(prompt.input,),
                label=None,
                shots=turned,
                questions=(),
                answers=None,
            )
            for choice in prompt.choices
        ]
    if method == "direct":
        return [query]
    if prompt.content_free is None:
        raise ValueError("calibrated scoring needs the prompt's content_free input")
    answers = None if prompt.answers is None else (-1,) * len(prompt.answers)
    return [query, replace(query, input=prompt.content_free, cuttable=(), idx=-1, label=None, answers=answers)]


def shots_to_score(shots: tuple[tuple[str, str], ...], method: str) -> tuple[tuple[str, str], ...]:
    """The shots in the form that precedes the scored prompts."""
    return tuple((answer, text) for text, answer in shots) if method == "channel" else shots


def prediction_from(prompt: Prompt, method: str, predictions: Sequence[Prediction]) -> Prediction:
    """The prediction of the prompt from those of its `prompts_to_score`, all scored by sums."""
    if method == "direct":
        return predictions[0]
    if method == "calibrated":
        query, free = predictions
        scores = tuple(score - off for score, off in zip(query.scores, free.scores, strict=True))
        return replace(query, scores=scores, predicted=best_of(scores, query.label, query.same))
    scores = tuple(prediction.scores[0] for prediction in predictions)
    return predicted(
        prompt,
        scores,
        tokens=tuple(prediction.tokens[0] for prediction in predictions),
        characters=(len(prompt.input),) * len(scores),
        bytes=(len(prompt.input.encode()),) * len(scores),
    )
