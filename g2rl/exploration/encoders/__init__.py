"""Encoders: texts in, unit vectors out; used by exploration=evol and by analyses of meaning.

encoder     the interface, and the check that every encoder's output passes
ngram       hashed n-gram counts, without weights
sentence    models of sentence-transformers, MiniLM among them
"""
