# The tests of the R package, with a closing line that counts them.
results <- as.data.frame(testthat::test_local(".", stop_on_failure = FALSE))
failed <- sum(results$failed) + sum(results$error)
cat(sprintf("R: %d passed, %d failed, %d skipped\n", sum(results$passed), failed, sum(results$skipped)))
quit(status = as.integer(failed > 0))
