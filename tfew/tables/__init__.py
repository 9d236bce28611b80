"""Reading files of rows, the same for every command: training, evaluation, prediction and the service.

* stream: `open_stream`: a file, standard input or bytes as rows, by its format
* table_reader: a user's whole table, of unknown columns
* rows: what a stream yields
* byte_lines: lines of bytes of a file, plain or .gz, of standard input or of bytes; their encoding
* dialect: delimiter, quoting and blanks of a table, detected from its beginning
* text_lines, delimited, json_lines, parquet, excel: the kinds of files
* formats: text files that a data set's YAML describes
* label_file: labels listed in a file, with words for them
* row_ends: fast scan for the ends of rows
* remote: files of an object store
* hub_rows: data sets of the Hub
"""
