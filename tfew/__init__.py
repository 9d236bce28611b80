"""T-Few: few-shot parameter-efficient fine-tuning with (IA)³ (Liu et al. 2022, arXiv 2205.05638)."""


def __getattr__(name: str) -> str:
    if name == "__version__":
        from tfew.environment.versions import own_version

        return own_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
