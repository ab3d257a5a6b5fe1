#' Settings that are rarely changed
#'
#' Everything about model and training that is not an argument of [RunSysVI()]
#' itself. The defaults are the engine's.
#'
#' @param kl_weight,reconstruction_weight,adversarial_weight Weights of the
#'   prior, of the reconstruction and of an adversary that tells systems apart
#'   (0: none). A number, or `c(value, start, end)`: 0 until the fraction
#'   `start` of training, then linear up to `value` at `end`.
#' @param prior `"vamp"` (posteriors of trainable pseudo-cells), `"gmm"` (a
#'   Gaussian mixture) or `"standard_normal"`.
#' @param mixture_share Share of a `"vamp"` or `"gmm"` prior in the divergence; the
#'   standard normal has the rest. A number is the share that is reached, from a
#'   tenth of training to six tenths; `c(share, start, end)` names these too. The
#'   paper's is `c(1, 0, 0)`: the mixture alone, from the first step.
#' @param n_prior_components Components of the prior, 1 or more.
#' @param mixture Components mix per latent `"dimension"` (as in the paper's
#'   code) or `"joint"`ly.
#' @param pseudoinputs Cells at which the components start: `"random"`,
#'   `"system"` (of `pseudoinputs_system`), `"balanced_system"` (as many of
#'   every system), `"balanced_label"` (as many of every label in
#'   `pseudoinputs_label`) or, for `prior = "gmm"`, `"noise"`.
#' @param pseudoinputs_system Name of a system.
#' @param pseudoinputs_label Column of the metadata, or vector named by cell.
#' @param trainable_priors Train the components, or keep them where they start.
#' @param n_hidden,n_layers,dropout_rate Width and number of hidden layers, and
#'   dropout, of encoder and decoder.
#' @param out_var_mode Variance of expression per gene (`"feature"`) or per
#'   cell and gene (`"sample_feature"`).
#' @param embed_categorical_covariates,embedding_dim Learn a vector of
#'   `embedding_dim` numbers for each category of a covariate instead of
#'   one-hot codes; for covariates of many categories.
#' @param swapped_covariates Covariates other than the system in the cycle:
#'   those of a random cell of the other system (`"resampled"`), the cell's own
#'   (`"observed"`) or none (`"zero"`).
#' @param weight_systems Count all systems the same, whatever their number of
#'   cells.
#' @param batch_size Cells of a minibatch; `NULL`: by the number of cells.
#' @param lr,lr_schedule,weight_decay,eps,clip_norm Learning rate (`NULL`: by
#'   the size of a minibatch), its course (`"constant"` or `"cosine"`), Adam's
#'   weight decay and epsilon, and the gradient norm to clip at (`NULL`: none).
#' @param train_size,early_stopping,patience Fraction of cells to train on
#'   (`NULL`: 0.9 with `early_stopping`, else all), whether to stop when the loss
#'   on the others has not improved for `patience` epochs.
#' @param precision Numbers in the matrix products of hidden layers:
#'   `"bfloat16"`, `"float32"`, or `"auto"` for the first where the processor
#'   has instructions for it.
#' @param min_cells Genes must be seen in more cells than this in every system
#'   when variable genes are chosen.
#'
#' @return A list of class `sysvi_options`, for the argument `options` of
#'   [RunSysVI()].
#' @export
#' @examples
#' sysvi_options(kl_weight = 0.5, n_hidden = 128)
sysvi_options <- function(kl_weight = 1, reconstruction_weight = 1, adversarial_weight = 0,
                          prior = c("vamp", "gmm", "standard_normal"), mixture_share = c(1, 0.1, 0.6),
                          n_prior_components = 5L, mixture = c("dimension", "joint"),
                          pseudoinputs = c("random", "system", "balanced_system", "balanced_label", "noise"),
                          pseudoinputs_system = NULL, pseudoinputs_label = NULL, trainable_priors = TRUE,
                          n_hidden = 256L, n_layers = 2L, dropout_rate = 0.1,
                          out_var_mode = c("feature", "sample_feature"),
                          embed_categorical_covariates = FALSE, embedding_dim = 5L,
                          swapped_covariates = c("resampled", "observed", "zero"), weight_systems = FALSE,
                          batch_size = NULL, lr = NULL, lr_schedule = c("constant", "cosine"),
                          weight_decay = 1e-6, eps = 0.01, clip_norm = NULL,
                          train_size = NULL, early_stopping = FALSE, patience = 20L,
                          precision = c("auto", "float32", "bfloat16"), min_cells = 20L) {
  given <- mget(names(formals()))
  for (name in names(given)) {
    choices <- eval(formals()[[name]])
    if (is.character(choices)) {
      given[[name]] <- one_of(given[[name]], choices, name)
    } else if (is.logical(choices)) {
      check_flag(given[[name]], name)
    } else {
      do.call(check_given, c(given[name], .or_null = is.null(choices)))
    }
  }
  structure(given, class = "sysvi_options")
}

check_options <- function(options) {
  if (!inherits(options, "sysvi_options")) abort("options must come from sysvi_options().")
}

one_of <- function(x, choices, name) {
  if (identical(x, choices)) {
    return(choices[1L])
  }
  if (!is.character(x) || length(x) != 1L || !x %in% choices) {
    abort("%s must be one of %s.", name, quoted(choices, 20L))
  }
  x
}

#' @export
print.sysvi_options <- function(x, ...) {
  cat("<sysvi_options>\n")
  for (name in names(x)) {
    cat(sprintf("  %s = %s\n", name, if (is.null(x[[name]])) "NULL" else paste(format(x[[name]]), collapse = ", ")))
  }
  invisible(x)
}
