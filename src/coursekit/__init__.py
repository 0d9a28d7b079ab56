"""The classroom: build lessons, check answers, show things."""
