"""The user's own texts as a source: readers of files (one module a kind), and the assembly into ``data.source.Source``.

table        JSON lines, csv and tsv with the fields that the config names
valuebench   questions with the answers of five language models (ValueBench)
valueeval    arguments with 20 value categories (ValueEval'23)
truthfulqa   answers judged truthful and informative (TruthfulQA)
sentences    normal form of a text, its sentences, self-supervised entailment pairs
body         rows that fit, split by question
texts        the Source of a body
"""
