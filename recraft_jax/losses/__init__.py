"""Pure loss functions: arrays in, arrays out."""
