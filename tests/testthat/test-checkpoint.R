# Trainings whose state is kept in a folder.
cells <- make_cells()
integrate <- function(...) run(cells$data, "system", "batch", metadata = cells$metadata, options = small, ...)

test_that("a call goes on from its checkpoint to the same bits, and that of another call is refused", {
  skip_without_engine()
  folder <- file.path(withr::local_tempdir(), "kept")
  z <- integrate()
  expect_identical(values(integrate(checkpoint = folder)), values(z))
  expect_setequal(list.files(folder), c("member-0.safetensors", "run.json"))
  expect_identical(values(integrate(checkpoint = folder, process = "separate")), values(z))
  expect_sysvi_error(integrate(checkpoint = folder, seed = 1L), "seed: 0 there, 1 here")
  expect_sysvi_error(integrate(checkpoint = 3), "`checkpoint` must be a string")
})
