"""From files and AnnData objects to the arrays that models train on."""
