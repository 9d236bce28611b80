"""The base model, its tokenizer, and adapters on disk.

build        model, tokenizer and method put together, from the configuration
backbone     loading checkpoints, checked
adapters_io  adapter.safetensors and adapter.json
exchange     HF peft's and the authors' files
"""
