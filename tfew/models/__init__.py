"""The base model, its tokenizer, and adapters on disk.

* build: builds model, tokenizer and method from the configuration
* execution: device and dtype
* method_builder, method_recipes: builds a method from the keys of its YAML; finds the YAML for given keys
* optimizer_builder: an optimiser from its settings
* quantization: frozen weights in 8 or 4 bits
* loaded_model: `LoadedModel`, and the device and dtype it is computed with
* blueprint: description of a run before anything is loaded
* backbone: loads and checks checkpoints
* shapes: models without weights, for counting
* checkpoint_path, gguf_checkpoint: the path to load; one-time conversion of GGUF files
* weights_sample, base_check: check that a base model is the one that an adapter was trained on
* scoring_rule: whether end-of-text is scored, and whether inputs are turns of a chat
* adapters_io: adapter.safetensors and adapter.json
* saved_task: the task description in an adapter that is shared without its run
* foreign_adapters: adapter files of HF peft and of the authors' code
* publishing: uploads an adapter to the Hub
"""
