"""Fine-tuning methods: each edits the model, and has one class and one YAML in configs/method.

* base: `Method`, the interface
* ia3, lora, lora_scaling: vectors and low-rank updates beside linear layers
* adapter, compacter: bottleneck layers inserted after sub-layers
* prompt, prefix: prepended embeddings, and prepended keys and values
* bitfit, layernorm, full, fish, said: weights of the base itself
* surgery, merging: editing layers in place; folding an adapter into the weights
* task_bank: vectors of many tasks in one model
* experts: layers of experts whose matrices are 3-D parameters
* ia3_exchange, peft_format: import and export of HF peft's and the authors' files
"""
