"""Records in; tables, figures and the report out."""
