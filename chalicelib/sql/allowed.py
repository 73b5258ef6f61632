"""What may stand in an analyst's SQL: the kinds of nodes of its tree, and the functions.

Both are lists of what is taken, so that what nobody thought of (a reader of files of one engine, a clause that a newer
parser knows) is refused. None of it reads anything but rows that the query has, or tells of the account or session.
"""

from sqlglot import exp

# By the names of sqlglot's classes; functions are below.
NODES = frozenset(
    """
    Select Union Except Intersect Subquery Values With CTE Table TableAlias TableSample From Join Unnest Lateral
    Where Group Cube Rollup GroupingSets Having Order Ordered Limit LimitOptions Fetch Offset Distinct
    Window WindowSpec Filter WithinGroup IgnoreNulls RespectNulls
    Identifier Column Star Alias Dot Bracket Slice Paren Tuple Lambda Placeholder
    Literal Boolean Null HexString UnicodeString Interval Var DataType DataTypeParam ColumnDef
    Add Sub Mul Div IntDiv Mod Neg DPipe EQ NEQ GT GTE LT LTE Is In Between Like Escape Not NullSafeEQ NullSafeNEQ
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Any All
    AtTimeZone JSONKeyValue JSONValue JSONPath JSONPathRoot JSONPathKey JSONPathSubscript JSONPathWildcard
    JSONExtractQuote
    """.split()  # noqa: SIM905 a list of words is read as one
)

# Engines take them for functions of the session, one or the other even in quotes.
SESSION = frozenset(("current_path", "current_role", "current_schema", "session_user"))

# As Athena calls them.
FUNCTIONS = frozenset(
    """
    abs acos asin atan atan2 cbrt ceil ceiling cos cosh degrees e exp floor from_base infinity is_finite is_infinite
    is_nan ln log log10 log2 mod nan pi pow power radians rand random round sign sin sinh sqrt tan tanh to_base truncate
    width_bucket bit_count bitwise_and bitwise_not bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift

    coalesce nullif if greatest least try try_cast cast typeof format case and or exists unnest

    chr codepoint concat concat_ws from_utf8 hamming_distance length levenshtein_distance lower lpad ltrim normalize
    position replace reverse rpad rtrim soundex split split_part split_to_map starts_with strpos substr substring
    to_utf8 translate trim upper word_stem regexp_count regexp_extract regexp_extract_all regexp_like regexp_position
    regexp_replace regexp_split url_decode url_encode url_extract_fragment url_extract_host url_extract_parameter
    url_extract_path url_extract_port url_extract_protocol url_extract_query

    json_array json_array_contains json_array_get json_array_length json_exists json_extract json_extract_scalar
    json_format json_object json_parse json_query json_size json_value is_json_scalar

    crc32 from_base64 from_base64url from_big_endian_64 from_hex hmac_md5 hmac_sha1 hmac_sha256 hmac_sha512 md5 murmur3
    sha1 sha256 sha512 spooky_hash_v2_32 spooky_hash_v2_64 to_base64 to_base64url to_big_endian_64 to_hex xxhash64

    at_timezone current_date current_time current_timestamp date date_add date_diff date_format date_parse date_trunc
    day day_of_month day_of_week day_of_year dow doy extract format_datetime from_iso8601_date from_iso8601_timestamp
    from_iso8601_timestamp_nanos from_unixtime from_unixtime_nanos hour human_readable_seconds last_day_of_month
    localtime localtimestamp millisecond minute month now parse_datetime parse_duration quarter second timezone_hour
    timezone_minute to_iso8601 to_milliseconds to_unixtime week week_of_year with_timezone year year_of_week yow

    any_value approx_distinct approx_most_frequent approx_percentile approx_set arbitrary array_agg avg bitwise_and_agg
    bitwise_or_agg bool_and bool_or checksum corr count count_if covar_pop covar_samp empty_approx_set entropy every
    geometric_mean grouping histogram kurtosis listagg map_agg map_union max max_by merge min min_by multimap_agg
    numeric_histogram qdigest_agg reduce_agg regr_intercept regr_slope set_agg set_union skewness stddev stddev_pop
    stddev_samp sum tdigest_agg value_at_quantile values_at_quantiles var_pop var_samp variance

    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number

    all_match any_match array array_distinct array_except array_intersect array_join array_max array_min array_position
    array_remove array_sort array_union arrays_overlap cardinality combinations contains contains_sequence element_at
    filter flatten ngrams none_match reduce repeat sequence shuffle slice transform trim_array zip zip_with

    map map_concat map_entries map_filter map_from_entries map_keys map_values map_zip_with multimap_from_entries
    transform_keys transform_values row
    """.split()  # noqa: SIM905 a list of words is read as one
)

# What sqlglot calls some of them.
_PARSED = frozenset(
    """
    trunc decode encode levenshtein pad str_position str_to_map j_s_o_n_object parse_json unhex hex md5_digest sha
    s_h_a2_digest datediff time_to_str str_to_time timestamp_trunc dayofweek_iso unix_to_time last_day time_to_unix
    approx_quantile logical_and logical_or group_concat arg_max arg_min array_unique_agg variance_pop array_size
    array_to_string array_contains generate_series array_slice struct array_filter
    """.split()  # noqa: SIM905 a list of words is read as one
)


def refusal(node: exp.Expr) -> str | None:
    """Return what is not taken of a node, or None; its children are not looked at."""
    if isinstance(node, exp.Func):
        name = node.name.lower() if isinstance(node, exp.Anonymous) else node.sql_name().lower()
        return None if name in FUNCTIONS or name in _PARSED else f"the function {name}"
    if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Func):
        return f"a function of a schema, {node.sql(dialect='athena')[:100]},"
    if isinstance(node, exp.Column) and node.name.lower() in SESSION:
        return f"the name {node.name.lower()}"
    if type(node).__name__ not in NODES:
        return type(node).__name__.upper()
    return None
