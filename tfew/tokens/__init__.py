"""Tokenisation, truncation and batches of token ids.

* joined_text: tokenises a text together with its continuation
* truncation: truncates texts that are too long
* special_tokens: tokens that a tokenizer adds around a text
* chat_template: formats an input as a user's turn of a conversation
* tokenized_prompt: the tokens of prompts, padded to a batch
"""
