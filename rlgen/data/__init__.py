"""Problems, tasks and the corpus: from local files, or from the miniature world."""
