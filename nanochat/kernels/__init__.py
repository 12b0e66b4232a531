"""Operations that deserve more than one form: ``naive`` is the definition, the others agree with it."""
