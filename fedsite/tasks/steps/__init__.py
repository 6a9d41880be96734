"""Steps of preprocessing that tasks put into their MONAI Compose, each equal to MONAI's own and cheaper."""
