"""The page on which people make pictures: one HTML file with its scripts, and what these scripts ask for."""
