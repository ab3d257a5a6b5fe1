# limma-voom and edgeR on the sums of the counts of each label in each donor; called by compare_systems.py.
#
#   Rscript benchmarks/pseudobulk.R FOLDER
#
# FOLDER holds counts.csv (genes x profiles) and profiles.csv (donor, system, label of each profile). The linear model
# has a level of each donor and of each label, and of each label its difference between the systems. Tested is this
# difference in one label minus its mean in the others. Written is found.csv: method, label, gene, p, fdr.
suppressMessages(library(edgeR)) # which loads limma
folder <- commandArgs(TRUE)[1]
counts <- as.matrix(read.csv(file.path(folder, "counts.csv"), row.names = 1, check.names = FALSE))
profiles <- read.csv(file.path(folder, "profiles.csv"), stringsAsFactors = TRUE)
labels <- levels(profiles$label)
in_both <- labels[colSums(table(profiles$system, profiles$label) > 0) == 2]
keep <- profiles$label %in% in_both
counts <- counts[, keep]
profiles <- droplevels(profiles[keep, ])

# The level of a donor holds the difference of the systems in the first label; those of the others are beyond it.
donor <- model.matrix(~ 0 + donor, profiles)
label <- model.matrix(~label, profiles)[, -1, drop = FALSE]
second <- as.integer(profiles$system == levels(profiles$system)[2])
difference <- label * second
colnames(difference) <- in_both[-1]
design <- cbind(donor, label, difference)
stopifnot(qr(design)$rank == ncol(design))

sums <- DGEList(counts, group = interaction(profiles$system, profiles$label, drop = TRUE))
sums <- sums[filterByExpr(sums), , keep.lib.sizes = FALSE]
sums <- calcNormFactors(sums)
linear <- lmFit(voom(sums, design), design)
negative_binomial <- glmQLFit(estimateDisp(sums, design), design, robust = TRUE)

found <- lapply(in_both, function(name) {
  weight <- ifelse(in_both == name, 1, -1 / (length(in_both) - 1))
  contrast <- setNames(numeric(ncol(design)), colnames(design))
  contrast[in_both[-1]] <- weight[-1] # that of the first label is 0
  voomed <- topTable(eBayes(contrasts.fit(linear, contrast)), number = Inf, sort.by = "none")
  of_edger <- topTags(glmQLFTest(negative_binomial, contrast = contrast), n = Inf, sort.by = "none")$table
  rows <- function(method, table, p, fdr) {
    data.frame(method = method, label = name, gene = rownames(table), p = table[[p]], fdr = table[[fdr]])
  }
  rbind(rows("limma-voom", voomed, "P.Value", "adj.P.Val"), rows("edgeR", of_edger, "PValue", "FDR"))
})
write.csv(do.call(rbind, found), file.path(folder, "found.csv"), row.names = FALSE)
