"""Other engines for the same bench file, each as plain as it can be. None of them uses ``placement``."""
