"""Encoders: texts in, unit vectors out; used by exploration=evol and by analyses of meaning.

encoder     the interface and its checks
ngram       hashed n-gram counts, without weights
sentence    sentence-transformers models, MiniLM among them
"""
