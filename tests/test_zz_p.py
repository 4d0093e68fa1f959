import warnings
from sklearn.utils import estimator_checks as c
NAMES="check_dataframe_column_names_consistency check_get_feature_names_out_error check_transformer_get_feature_names_out check_transformer_get_feature_names_out_pandas check_set_output_transform check_set_output_transform_pandas check_set_output_transform_polars check_global_output_transform_pandas check_global_set_output_transform_polars check_inplace_ensure_writeable".split()
def test_a(embedder):
    for n in NAMES:
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter("always")
            try: getattr(c,n)("SSLImageEmbedder",embedder(image_shape=(1,-1))); r="ok"
            except BaseException as ex: r=repr(ex)[:600]
        print(n,r,sorted({str(x.category.__name__)+str(x.message)[:150] for x in w}))
