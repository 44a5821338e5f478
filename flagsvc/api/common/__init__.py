"""What every protocol needs: admission, failures, contexts, selectors, values."""
