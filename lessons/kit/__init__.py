"""What the lessons need but do not teach: data, drawing, homework, building, running."""
