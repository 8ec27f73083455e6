"""How fast the models' part of an audit is, beside what it cannot do without. Knows no Ray."""
