"""The base model, its tokenizer, and adapters on disk.

* build: model, tokenizer and method put together, from the configuration
* execution: on which device, in which type
* method_builder, method_recipes: a method from the keys of its YAML; which YAML has them
* loaded_model: `LoadedModel`, and where and how it is computed
* blueprint: a run before anything is loaded
* backbone: loading checkpoints, checked
* shapes: models without weights, for counting
* checkpoint_path, gguf_checkpoint: what is loaded; GGUF files are converted once
* weights_sample, base_check: whether a base is the one that an adapter was trained on
* scoring_rule: whether end-of-text is scored, and whether inputs are turns of a chat
* adapters_io: adapter.safetensors and adapter.json
* saved_task: what an adapter says of its task, where it travels without its run
* foreign_adapters: HF peft's and the authors' files
* publishing: an adapter as a repository of the Hub
"""
