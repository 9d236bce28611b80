"""Fine-tuning methods: each is one edit of the model, one class and one YAML in configs/method.

* base: `Method`, the interface
* ia3, lora, lora_scaling: vectors and low-rank updates beside linear layers
* adapter, compacter: layers put in between
* prompt, prefix: tokens and key-value pairs put in front
* bitfit, layernorm, full, fish, said: weights of the base itself
* surgery, merging: finding and editing linear layers; folding an adapter in
* task_bank: many tasks' vectors in one model
* experts: layers of experts whose matrices are 3-D parameters
* ia3_exchange, peft_format: HF peft's and the authors' files
"""
