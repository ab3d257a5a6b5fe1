"""The conditional variational autoencoder: networks, priors, likelihoods and their loss."""
