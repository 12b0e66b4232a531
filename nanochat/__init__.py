"""GPT training with interchangeable mathematics: mixers, blocks, optimizers, schedules and honest comparisons.

Importing this package is cheap: nothing here imports torch. See ``nanochat.gpt`` for the model.
"""
