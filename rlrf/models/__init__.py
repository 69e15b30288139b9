"""Side models that training uses and makes: reward models and feedback models."""
