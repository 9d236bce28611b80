"""Text and its token ids, and batches of them.

* joined_text: a text and what follows it, tokenised as the one text that they are
* truncation: what is kept of a text that is too long
* special_tokens: what a tokenizer puts around a text
* chat_template: an input as a user's turn of a conversation
* tokenized_prompt: the tokens of prompts, padded to a batch
"""
