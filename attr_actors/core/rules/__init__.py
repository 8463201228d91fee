"""The ordering rules: which of many error lines is the root. Hold in mind: each rule is one function with one reason."""
