"""The doctor of data sets: what is wrong with pictures and their words before a model learns from them."""
