"""What is asked of the student: one file a lesson."""
