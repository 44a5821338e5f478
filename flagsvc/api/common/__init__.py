"""What every protocol uses: admission, error mapping, evaluation contexts, selectors and values."""
