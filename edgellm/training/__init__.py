"""What makes the model inside the package: dialogues, vocabulary, first weights, evaluation."""
