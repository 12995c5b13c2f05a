"""The verb generate: a request becomes pictures, and a picture can be made again."""
